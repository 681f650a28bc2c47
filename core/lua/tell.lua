-- A function of the scripts that change a job's state; it stands before each (core/jobs.py). Tells an event: counts it, puts it into the job's
-- stream, wakes who listens, and owes it to the job's own webhook URL and to every endpoint of the tenant that wants it.
-- keys: job, events, outbox, endpoints of the tenant, deliveries of the tenant
-- told: event, now, id of the event, the event as JSON, tenant, the job's own URL ('' if it is not told), its lane
local function tell(keys, told)
  local job, stream, outbox, endpoints, index = unpack(keys)
  local name, now, id, event, tenant, url, url_lane = unpack(told)
  local seq = redis.call('HINCRBY', job, 'seq', 1)
  redis.call('XADD', stream, 'MAXLEN', '~', 256, '*', 'event', name, 'seq', seq, 'at', now)
  redis.call('PUBLISH', stream, name)
  local function to(webhook, lane, field, target)
    owe(outbox, index, lane, webhook, event, seq, field, target)
    redis.call('HSET', job, 'webhook:' .. webhook, lane)
  end
  if url ~= '' then to(id, url_lane, 'url', url) end
  local all = redis.call('HGETALL', endpoints)
  for i = 1, #all, 2 do
    local endpoint = cjson.decode(all[i + 1])
    for _, wanted in ipairs(endpoint.enabled and endpoint.events or {}) do
      if wanted == name then
        to(id .. '_' .. string.sub(all[i], 5), tenant .. '/' .. all[i], 'endpoint', all[i])
        break
      end
    end
  end
end
