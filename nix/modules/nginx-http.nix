# What the site needs at nginx's http level: variables, the log's format, and the counters of the
# limits. Every name begins with aistack_, since a host's other sites share this level.
{
  config,
  lib,
  ...
}:
let
  cfg = config.services.aistack;
  inherit (cfg.nginx) limits;

  # Longer prefixes first: the first expression that matches decides.
  byPath =
    value:
    lib.concatMapStrings (
      route: ''"~^${lib.escapeRegex route.prefix}(/|$)" ${toString (value route)};'' + "\n"
    ) (lib.sort (a: b: lib.stringLength a.prefix > lib.stringLength b.prefix) cfg.nginx.routes);

  zones =
    name: variable: limit:
    lib.optionalString limit.enable ''
      limit_req_zone ${variable} zone=aistack_${name}_rate:10m rate=${toString limit.rate}r/s;
      limit_conn_zone ${variable} zone=aistack_${name}_connections:10m;
    '';

  # One line of JSON, without a query (it may hold anything) and without a secret.
  fields = {
    time = ''"$time_iso8601"'';
    request_id = ''"$aistack_request_id"'';
    trace = ''"$aistack_trace_id"'';
    client = ''"$remote_addr"'';
    key_id = ''"$aistack_key_id"'';
    method = ''"$request_method"'';
    path = ''"$aistack_path"'';
    protocol = ''"$server_protocol"'';
    status = "$status";
    error_id = ''"$sent_http_x_error_id"'';
    bytes_in = "$request_length";
    bytes_out = "$bytes_sent";
    seconds = "$request_time";
    service = ''"$aistack_service"'';
    upstream_status = ''"$upstream_status"'';
    upstream_seconds = ''"$upstream_response_time"'';
    agent = ''"$http_user_agent"'';
  };
  line = "{" + lib.concatStringsSep "," (lib.mapAttrsToList (name: value: ''"${name}":${value}'') fields) + "}";
in
lib.mkIf cfg.nginx.active {
  services.nginx.commonHttpConfig = ''
    # The client's request id where it is a decent one, else a new one.
    map $http_x_request_id $aistack_request_id {
      "~^[A-Za-z0-9._-]{1,128}$" $http_x_request_id;
      default $request_id;
    }
    map $request_id $aistack_error_id {
      "~^(?<aistack_error_digits>[0-9a-f]{16})" err_$aistack_error_digits;
      default err_unknown;
    }

    # The path as it was sent, for an error and for the log. In an error it is a whole member, or
    # nothing where its characters would need escaping.
    map $request_uri $aistack_instance {
      "~^(?<aistack_clean_path>[A-Za-z0-9/._~!&()*+,;=:@%-]{1,400})(\?|$)" '"instance":"$aistack_clean_path",';
      default "";
    }
    map $request_uri $aistack_path {
      "~^(?<aistack_logged_path>[^?]{0,400})" $aistack_logged_path;
      default "";
    }

    # The Host as it was sent, with its port.
    map $http_host $aistack_host {
      "" $host;
      default $http_host;
    }

    # Which service a path means, and how large its bodies may be.
    map $uri $aistack_service {
      ${byPath (route: route.service)}
      default "";
    }
    map $uri $aistack_body_limit {
      ${byPath (route: route.bodyBytes)}
      default 1048576;
    }

    # A key is told apart by its id and its checksum (a CRC-32 of the whole), so that its secret is
    # kept nowhere and nobody who knows an id alone can use up that key's share.
    map $http_authorization $aistack_key_id {
      "~^(?i:bearer) +ais_(?<aistack_id>[0-9A-Za-z-]{1,64})_[0-9A-Za-z]{38} *$" $aistack_id;
      default "";
    }
    map $http_authorization $aistack_key {
      "~^(?i:bearer) +ais_(?<aistack_of>[0-9A-Za-z-]{1,64})_[0-9A-Za-z]{32}(?<aistack_sum>[0-9A-Za-z]{6}) *$" $aistack_of.$aistack_sum;
      default "";
    }
    map $http_traceparent $aistack_trace_id {
      "~^[0-9a-f]{2}-(?<aistack_trace>[0-9a-f]{32})-" $aistack_trace;
      default "";
    }
    geo $aistack_counted {
      default 1;
      ${lib.concatMapStrings (range: "${range} 0;\n") limits.exemptAddresses}
    }
    map $aistack_counted $aistack_address {
      1 $binary_remote_addr;
      default "";
    }
    ${zones "key" "$aistack_key" limits.perKey}
    ${zones "address" "$aistack_address" limits.perAddress}

    # Ours where a service sets none: the pages of /docs/<service> bring their own policy.
    map $uri $aistack_default_policy {
      ${lib.optionalString (cfg.nginx.grafanaPath != null)
        ''"~^${lib.escapeRegex cfg.nginx.grafanaPath}" "frame-ancestors 'self'";''
      }
      default "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    }
    map $upstream_http_content_security_policy $aistack_policy {
      "" $aistack_default_policy;
      default "";
    }
    map $upstream_http_x_content_type_options $aistack_nosniff {
      "" nosniff;
      default "";
    }
    map $upstream_http_referrer_policy $aistack_referrer {
      "" no-referrer;
      default "";
    }

    # No connection was made in the last attempt.
    map $upstream_connect_time $aistack_unconnected {
      "~-$" 1;
      default "";
    }

    # The index is a page for a browser, JSON for everybody else.
    map $http_accept $aistack_index {
      "~text/html" html;
      default json;
    }

    log_format aistack escape=json '${line}';
  '';
}
