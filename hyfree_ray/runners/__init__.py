"""Where stages run: nowhere (planning), in this process, or on Ray."""
