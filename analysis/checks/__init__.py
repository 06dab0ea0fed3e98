"""What must hold, and what should, before a report's answer is believed."""
