# The whole stack on one laptop, for oneself: no domain, no account, nothing on the network.
#
# Models are computed by the integrated GPU, through Vulkan. Without these two lines it is the
# processor; no more need be changed.
{
  services.aistack = {
    enable = true;
    llama.acceleration = "vulkan";
  };

  hardware.graphics.enable = true;
}
