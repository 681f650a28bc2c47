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

local function keep(expiry, policy, counts, tenant, id, job, stream, ledger, bounds, inputs, outputs)
  local index, now_ms, size = 'outfill:' .. ledger .. ':' .. tenant, clock_ms(), weight(job, stream)
  write_kept(job, {ledger = ledger, size = size, inputs = inputs, outputs = outputs})
  redis.call('ZADD', index, now_ms, id)
  local bytes = redis.call('HINCRBY', counts, ledger .. '_bytes', size)
  local stored = redis.call('HINCRBY', counts, 'stored_bytes', inputs + outputs)
  local jobs, most = redis.call('ZCARD', index), bound(policy, ledger .. '_jobs', bounds[1])
  local most_bytes, most_stored = bound(policy, ledger .. '_bytes', bounds[2]), bound(policy, 'stored_bytes', bounds[3])
  for _ = 1, AT_ONCE do
    if jobs == 0 or not (exceeds(jobs, most) or exceeds(bytes, most_bytes) or exceeds(stored, most_stored)) then return end
    local oldest = redis.call('ZPOPMIN', index)[1]
    local kept = kept_of('outfill:job:' .. oldest)
    jobs = jobs - 1
    if kept then
      bytes = redis.call('HINCRBY', counts, ledger .. '_bytes', -kept.size)
      stored = redis.call('HINCRBY', counts, 'stored_bytes', 0 - (kept.inputs + kept.outputs))
      write_kept('outfill:job:' .. oldest, {ledger = 'leaving', size = kept.size, inputs = 0, outputs = 0})
      redis.call('ZADD', 'outfill:leaving:' .. tenant, now_ms, oldest)
      redis.call('HINCRBY', counts, 'leaving_bytes', kept.size)
      redis.call('ZADD', expiry, 'XX', now_ms, oldest)
    end
  end
end
