"""The model that a run trains: loaded, spread over devices, with A as it starts."""
