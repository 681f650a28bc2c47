-- A function of the script that ends jobs; it stands before it, after quota.lua. A tenant has two ledgers of jobs that have ended, those that were canceled
-- or expired and all others, by when they ended, with the bytes that they take in Redis. The oldest of a ledger that is over a bound leave: they are due
-- for deletion at once, and counted as leaving until the steward has deleted them.
local OF_LISTS, OF_ROW = 600, 1500 -- bytes of a job in the lists that hold its id; of a webhook in its lists, with the attempts that it will log
local AT_ONCE = 100 -- that leave in one step, where a bound was lowered

local function usage(key)
  return redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0) or 0
end

local function weight(job, stream)
  local bytes = OF_LISTS + usage(job) + usage(stream)
  for _, field in ipairs(redis.call('HKEYS', job)) do
    if field == 'reservation' then
      bytes = bytes + usage(redis.call('HGET', job, field))
    elseif string.sub(field, 1, 8) == 'webhook:' then
      bytes = bytes + usage('outfill:webhook:' .. string.sub(field, 9)) + OF_ROW
    end
  end
  return bytes
end

-- input_bytes, output_bytes: of its objects, as long as they are there
local function keep(expiry, policy, counts, tenant, id, job, stream, ledger, bounds, input_bytes, output_bytes)
  local index, now_ms, size = 'outfill:' .. ledger .. ':' .. tenant, clock_ms(), weight(job, stream)
  redis.call('HSET', job, 'ledger', ledger, 'size', size, 'input_bytes', input_bytes, 'output_bytes', output_bytes)
  redis.call('ZADD', index, now_ms, id)
  local bytes = redis.call('HINCRBY', counts, ledger .. '_bytes', size)
  local stored = redis.call('HINCRBY', counts, 'stored_bytes', input_bytes + output_bytes)
  local jobs, most = redis.call('ZCARD', index), bound(policy, ledger .. '_jobs', bounds[1])
  local most_bytes, most_stored = bound(policy, ledger .. '_bytes', bounds[2]), bound(policy, 'stored_bytes', bounds[3])
  for _ = 1, AT_ONCE do
    if jobs == 0 or not (exceeds(jobs, most) or exceeds(bytes, most_bytes) or exceeds(stored, most_stored)) then return end
    local oldest = redis.call('ZPOPMIN', index)[1]
    local its_job = 'outfill:job:' .. oldest
    local found = redis.call('HMGET', its_job, 'size', 'input_bytes', 'output_bytes')
    local its_bytes, its_stored = tonumber(found[1] or 0), (found[2] or 0) + (found[3] or 0)
    jobs, bytes = jobs - 1, redis.call('HINCRBY', counts, ledger .. '_bytes', -its_bytes)
    stored = redis.call('HINCRBY', counts, 'stored_bytes', -its_stored)
    if found[1] then
      redis.call('HSET', its_job, 'ledger', 'leaving')
      redis.call('HDEL', its_job, 'input_bytes', 'output_bytes')
      redis.call('ZADD', 'outfill:leaving:' .. tenant, now_ms, oldest)
      redis.call('HINCRBY', counts, 'leaving_bytes', its_bytes)
      redis.call('ZADD', expiry, 'XX', now_ms, oldest)
    end
  end
end
