"""Networks and linear tiers, and how they are trained."""
