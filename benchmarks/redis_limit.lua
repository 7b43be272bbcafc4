-- For comparison: how nginx shares limits over machines, by one EVALSHA on a kept connection for each request.
local redis = require "nginx.redis"

local port, sha, script
local limit = {}

function limit.open(redis_port, script_path)
  local file = assert(io.open(script_path))
  script = file:read("*a")
  file:close()
  port = redis_port
end

local function take(connection, client, agent)
  return connection:evalsha(sha, 3, client, "global", agent, 10, 1000000000, 1000000000, 1000000000)
end

function limit.access()
  local connection = redis:new()
  connection:set_timeout(1000)
  local admitted, err = connection:connect("127.0.0.1", port)
  if admitted then
    local client = "client:" .. ngx.var.binary_remote_addr
    local agent = "agent:" .. (ngx.var.http_user_agent or "")
    if sha then admitted, err = take(connection, client, agent) end
    if not sha or not admitted then
      sha, err = connection:script("load", script)
      if sha then admitted, err = take(connection, client, agent) end
    end
  end
  if not admitted then
    ngx.log(ngx.CRIT, "redis: ", err)
    return ngx.exit(500)
  end
  connection:set_keepalive(60000, 128)
  if admitted ~= 1 then return ngx.exit(429) end
end

return limit
