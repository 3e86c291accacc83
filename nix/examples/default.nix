# Every example, by name. Each is a NixOS module as a user writes it; tests evaluate all of them,
# and docs/install-nixos.md shows them.
{
  laptop = ./laptop.nix;
  server = ./server.nix;
  external = ./external.nix;
  three-machines-front = ./three-machines/front.nix;
  three-machines-data = ./three-machines/data.nix;
  three-machines-gpu = ./three-machines/gpu.nix;
}
