#!lua flags=allow-oom
-- Takes due rows and puts them off by a lease, so that a sender that dies does not take them with it. Whoever has least in flight goes first,
-- tenants before lanes, so that those who are many or slow keep only each other waiting. The last places are for tenants that have none in flight, so that
-- no few whose receivers hang take all.
-- KEYS: outbox   ARGV: lease_ms, places, places of a lane, places of a tenant, places to spare, lane, how many it has in flight, lane, ...
-- Returns the ids.
local now, places, lane_places, tenant_places = clock_ms(), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local spare = tonumber(ARGV[5])
local function tenant_of(lane) return string.match(lane, '^[^/]*') end
local busy, busy_tenants, taken, touched = {}, {}, {}, {}
local function count(lane, n)
  busy[lane] = (busy[lane] or 0) + n
  busy_tenants[tenant_of(lane)] = (busy_tenants[tenant_of(lane)] or 0) + n
end
for i = 6, #ARGV, 2 do count(ARGV[i], tonumber(ARGV[i + 1])) end
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)
while #taken < places do
  local best, best_of_lane, best_of_tenant
  for i, lane in ipairs(due) do
    local of_lane, of_tenant = busy[lane] or 0, busy_tenants[tenant_of(lane)] or 0
    if of_lane < lane_places and of_tenant < tenant_places and (of_tenant == 0 or places - #taken > spare)
        and (not best or of_tenant < best_of_tenant or (of_tenant == best_of_tenant and of_lane < best_of_lane)) then
      best, best_of_lane, best_of_tenant = i, of_lane, of_tenant
    end
  end
  if not best then break end
  local lane = due[best]
  touched[lane] = true
  local rows = 'outfill:lane:' .. lane
  local id = redis.call('ZRANGEBYSCORE', rows, '-inf', now, 'LIMIT', 0, 1)[1]
  if not id then
    table.remove(due, best)
  elseif redis.call('EXISTS', 'outfill:webhook:' .. id) == 0 then
    redis.call('ZREM', rows, id)
  else
    redis.call('ZADD', rows, now + ARGV[1], id)
    table.insert(taken, id)
    count(lane, 1)
  end
end
for lane in pairs(touched) do refresh(KEYS[1], lane) end
return taken
