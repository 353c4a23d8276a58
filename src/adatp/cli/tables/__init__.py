"""What commands print, a file for each command that prints much."""
