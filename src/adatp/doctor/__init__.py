"""What is installed here, and whether a model fits: estimated from its config, without its weights."""

from adatp.doctor.footprint import Footprint, footprint, patches
from adatp.doctor.installation import Installation, inspect_installation
from adatp.doctor.machine import Device, device_named, devices, matmul_rate

__all__ = [
    "Device",
    "Footprint",
    "Installation",
    "device_named",
    "devices",
    "footprint",
    "inspect_installation",
    "matmul_rate",
    "patches",
]
