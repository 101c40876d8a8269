"""Every metric of service, router and queues, once; and how one is made of what is said there."""
