# services.journald.*
# Facts: nixos/modules/system/boot/systemd/journald.nix, read in the copy
# faukah/nixpkgs at 3b20077cd82fd1f099e92e2792d73e3176d4869d.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.journald;
  plain = type: default: mkOption { inherit type default; };
in
{
  options.services.journald = {
    console = plain types.str "";
    rateLimitInterval = plain types.str "30s";
    rateLimitBurst = plain types.int 10000;
    storage = plain (types.enum [ "persistent" "volatile" "auto" "none" ]) "persistent";
    extraConfig = plain types.lines "";
    forwardToSyslog = plain types.bool false;
    audit = plain (types.nullOr types.bool) null;
  };
  config.environment.etc."systemd/journald.conf".text = ''
    [Journal]
    Storage=${cfg.storage}
    RateLimitInterval=${cfg.rateLimitInterval}
    RateLimitBurst=${toString cfg.rateLimitBurst}
  ''
  + lib.optionalString (cfg.console != "") ''
    ForwardToConsole=yes
    TTYPath=${cfg.console}
  ''
  + lib.optionalString cfg.forwardToSyslog ''
    ForwardToSyslog=yes
  ''
  + ''
    Audit=${lib.optionalString (cfg.audit != null) (lib.boolToString cfg.audit)}
  ''
  + cfg.extraConfig;
}
