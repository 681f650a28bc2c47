-- Functions of the scripts that keep what a tenant leaves behind within bounds; they stand before each. A bound is the tenant's own, by its policy,
-- or the settings'; 0 is none.
local function bound(policy, name, default)
  return tonumber(redis.call('HGET', policy, name) or default)
end

local function exceeds(n, most)
  return most > 0 and n > most
end

local function count_waiting(counts, job, n)
  redis.call('HINCRBY', counts, 'queued', n)
  local bytes = redis.call('HINCRBY', counts, 'queued_bytes', n * redis.call('HSTRLEN', job, 'spec'))
  if bytes < 0 then redis.call('HSET', counts, 'queued_bytes', 0) end -- jobs that an earlier build had recorded were not counted
end
