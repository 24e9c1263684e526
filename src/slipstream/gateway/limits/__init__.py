"""What a caller may ask for: requests and tokens a minute, tokens a day, requests at one time."""
