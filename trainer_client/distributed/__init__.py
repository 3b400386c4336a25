"""One run on several processes (torchrun): the same steps on all of them, the work shared out.

Rank 0 talks to the service and writes files. Every rank gets the same batch, samples and judges its
share of it, learns from its share, and adds its gradients to those of the others.
"""
