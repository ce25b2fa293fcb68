"""One signed file for hundreds of devices: what it says, to whom, and since when."""
