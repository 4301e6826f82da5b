"""Published weights at rest (``store``, ``layout``) and in memory (``cache``)."""
