"""`inferometer demo`: an embedded broker, real flights, a real model, a live view."""
