# The packages as an overlay; procrastinate also as a Python package of every Python 3.
final: prev: {
  inherit (import ./. { pkgs = final; })
    aistack
    aistack-up
    all-minilm-l6-v2
    smollm2-135m-instruct
    ;

  pythonPackagesExtensions = prev.pythonPackagesExtensions ++ [
    (pythonFinal: _: {
      procrastinate = pythonFinal.callPackage ./procrastinate.nix { };
    })
  ];
}
