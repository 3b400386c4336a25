"""`python -m sampler_service.cli`."""

from sampler_service.cli import main

main()
