"""What the official clients of three APIs must be able to do, as one table of checks."""
