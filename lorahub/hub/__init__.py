"""What comes in from the Hub, and whether it is safe."""
