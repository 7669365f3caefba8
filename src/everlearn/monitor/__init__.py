"""What the machine goes through while something runs."""
