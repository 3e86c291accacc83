# Builders of text files and scripts. The text stays in the derivation's environment, where a test
# reads it without a build.
{ lib, pkgs }:
let
  inherit (pkgs.stdenv.hostPlatform) system;

  # A derivation whose environment has text; built, it is that file.
  text =
    {
      name,
      content,
      executable ? false,
      destination ? "",
    }:
    derivation {
      inherit name system;
      builder = "/bin/sh";
      PATH = "/usr/bin:/bin";
      text = content;
      passAsFile = [ "text" ];
      inherit destination;
      executable = if executable then "1" else "";
      args = [
        "-eu"
        "-c"
        ''
          case "$destination" in
            "") cp "$textPath" "$out" ;;
            *) mkdir -p "$out''${destination%/*}"; cp "$textPath" "$out$destination" ;;
          esac
          test -z "$executable" || chmod 555 "$out$destination"
        ''
      ];
    };
in
{
  writeText = name: content: text { inherit name content; };
  writeTextFile =
    {
      name,
      text ? throw "writeTextFile: text is missing",
      executable ? false,
      destination ? "",
      checkPhase ? "",
      meta ? { },
      passthru ? { },
      derivationArgs ? { },
      allowSubstitutes ? false,
      preferLocalBuild ? true,
    }@given:
    pkgs.textFile {
      inherit name executable destination;
      content = given.text;
    }
    // passthru
    // {
      inherit meta;
    };
  textFile = text;
  writeTextDir =
    path: content:
    text {
      name = lib.strings.sanitizeDerivationName (baseNameOf path);
      inherit content;
      destination = "/${path}";
    };
  writeScript =
    name: content:
    text {
      inherit name content;
      executable = true;
    };
  writeScriptBin =
    name: content:
    text {
      inherit name content;
      executable = true;
      destination = "/bin/${name}";
    }
    // {
      meta.mainProgram = name;
    };
  writeShellScript = name: content: pkgs.writeScript name "#!${pkgs.runtimeShell}\n${content}";
  writeShellScriptBin =
    name: content: pkgs.writeScriptBin name "#!${pkgs.runtimeShell}\n${content}\n";
  writeShellApplication =
    {
      name,
      text,
      runtimeInputs ? [ ],
      runtimeEnv ? null,
      meta ? { },
      passthru ? { },
      checkPhase ? null,
      excludeShellChecks ? [ ],
      extraShellCheckFlags ? [ ],
      bashOptions ? [ "errexit" "nounset" "pipefail" ],
      inheritPath ? true,
      derivationArgs ? { },
    }:
    pkgs.textFile {
      inherit name;
      executable = true;
      destination = "/bin/${name}";
      content =
        "#!${pkgs.runtimeShell}\n"
        + lib.concatMapStrings (option: "set -o ${option}\n") bashOptions
        + lib.optionalString (runtimeEnv != null) (
          lib.concatStrings (
            lib.mapAttrsToList (key: value: "${lib.strings.toShellVar key value}\nexport ${key}\n") runtimeEnv
          )
        )
        + lib.optionalString (runtimeInputs != [ ]) ''

          export PATH="${lib.makeBinPath runtimeInputs}${lib.optionalString inheritPath ":$PATH"}"
        ''
        + "\n${text}\n";
    }
    // passthru
    // {
      meta = {
        mainProgram = name;
      }
      // meta;
      overrideAttrs = _: throw "writeShellApplication: overrideAttrs is not in the stand-in";
    };
}
