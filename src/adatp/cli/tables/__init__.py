"""The printed output of commands, one file per command with much output."""
