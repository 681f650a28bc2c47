-- Takes due rows and puts them off by a lease, so that a sender that dies does not take them with it. Whoever has least in flight goes first,
-- tenants before lanes, so that those who are many or slow keep only each other waiting. Lanes that gave no answer last time have places
-- of their own, so that they never take all.
-- KEYS: outbox   ARGV: lease_ms, places, places of a lane, of a tenant, and of silent lanes together, silent lanes, each of them,
--                      then lane, how many it has in flight, lane, ...
-- Returns the ids.
local now, places, lane_places, tenant_places = clock_ms(), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local silent_places, last_silent = tonumber(ARGV[5]), 6 + ARGV[6]
local function tenant_of(lane) return string.match(lane, '^[^/]*') end
local busy, busy_tenants, busy_silent, silent, taken, touched = {}, {}, 0, {}, {}, {}
for i = 7, last_silent do silent[ARGV[i]] = true end
local function count(lane, n)
  busy[lane] = (busy[lane] or 0) + n
  if silent[lane] then busy_silent = busy_silent + n end
  busy_tenants[tenant_of(lane)] = (busy_tenants[tenant_of(lane)] or 0) + n
end
for i = last_silent + 1, #ARGV, 2 do count(ARGV[i], tonumber(ARGV[i + 1])) end
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)
while #taken < places do
  local best, best_of_lane, best_of_tenant
  for i, lane in ipairs(due) do
    local of_lane, of_tenant = busy[lane] or 0, busy_tenants[tenant_of(lane)] or 0
    if of_lane < lane_places and of_tenant < tenant_places and (not silent[lane] or busy_silent < silent_places)
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
