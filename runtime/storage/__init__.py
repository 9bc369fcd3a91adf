"""Where each storage's bytes are, and how many bytes the device holds."""
