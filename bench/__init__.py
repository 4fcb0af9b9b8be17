"""What the performance figures come from: whole loads, their stages, the upload path against others. Never deployed."""
