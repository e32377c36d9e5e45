"""What goes out to the Hub, with its evidence."""
