"""The page. It translates and never decides."""
