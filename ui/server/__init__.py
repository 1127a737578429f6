"""The layers between a browser and the page: access, limits, delivery, endpoints."""
