"""The metrics of service, router and queues, each declared once, and the objects made from them."""
