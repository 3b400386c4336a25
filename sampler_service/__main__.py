"""`python -m sampler_service`."""

from sampler_service.cli import main

main()
