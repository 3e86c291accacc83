# How nginx asks a service. A connection carries one request: the services stand on unix sockets,
# where a new connection costs microseconds, and a kept one may be closed by a service that drains
# just as a request is sent on it; such a request could not be sent again unless it is safe. Measured
# with ten restarts under load (tests/nix/test_nginx_services.py): `keepalive 32` lost a POST in one
# run of two, a connection for each request none in five.
{ lib }:
{
  # For a server block.
  settings = ''
    proxy_http_version 1.1;
    proxy_connect_timeout 5s;
    proxy_redirect off;
    # Streams arrive as they are made. Bodies are read whole first, so that a slow client holds no
    # place in a service and nothing is half sent to one that goes away.
    proxy_buffering off;
    proxy_request_buffering on;
    client_body_buffer_size 128k;
    # A request goes to another connection when none was made, or when it is safe and got no answer.
    proxy_next_upstream error;
    proxy_next_upstream_tries 2;
    # A service cannot make nginx serve files or redirect within.
    proxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Charset;
    gzip off;
  '';

  # What a service is told of a client from outside; what only this door may say is overwritten.
  clientHeaders =
    {
      host ? "$host",
      connection ? "close",
      extra ? { },
    }:
    lib.concatStrings (
      lib.mapAttrsToList (name: value: "proxy_set_header ${name} ${value};\n") (
        {
          Host = host;
          Connection = connection;
          X-Request-Id = "$aistack_request_id";
          X-Forwarded-For = "$remote_addr";
          X-Forwarded-Proto = "$scheme";
          X-Forwarded-Host = "$http_host";
          X-Forwarded-Port = ''""'';
          X-Forwarded-Server = ''""'';
          X-Real-IP = ''""'';
          X-Aistack-Key-Id = ''""'';
          Forwarded = ''""'';
        }
        // extra
      )
    );

  # Between machines of the stack everything that the first door or a service said goes on.
  peerHeaders = host: ''
    proxy_set_header Host ${host};
    proxy_set_header Connection close;
  '';
}
