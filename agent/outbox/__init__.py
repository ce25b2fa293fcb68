"""What the device must not forget: cases, spending, egress and answers, in one file."""
