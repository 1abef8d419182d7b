"""What tests share: contracts, small data and models, processes, devices, tolerances."""
