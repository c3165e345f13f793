"""Health, scrape and state pages."""
