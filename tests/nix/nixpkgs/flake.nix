{
  description = "A stand-in for nixpkgs, for tests where the real one cannot be had";

  outputs = _: removeAttrs (import ./outputs.nix { }) [ "outPath" ];
}
