"""What runs the stack on this machine, and the images that show it."""
