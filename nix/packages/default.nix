# Everything that this repository packages, from one nixpkgs.
#
#   import ./nix/packages { inherit pkgs; }  ->  { aistack, aistack-up, all-minilm-l6-v2, … }
#
# CUDA follows `nixpkgs.config.cudaSupport`, as in nixpkgs.
{
  pkgs,
  cudaSupport ? pkgs.config.cudaSupport or false,
}:
let
  procrastinate = pkgs.python3Packages.callPackage ./procrastinate.nix { };
  models = import ./models.nix { inherit pkgs; };
  aistack = pkgs.python3Packages.callPackage ./aistack.nix {
    inherit procrastinate;
    # ONNX Runtime is the encoder of CPUs, torch the one of GPUs.
    withTorch = cudaSupport;
  };
in
{
  inherit procrastinate aistack;
  inherit (models) all-minilm-l6-v2 smollm2-135m-instruct;

  aistack-up = import ./aistack-up.nix {
    inherit pkgs aistack;
    inherit (models) all-minilm-l6-v2 smollm2-135m-instruct;
  };
}
