"""What the gateway keeps so as not to compute it twice."""
