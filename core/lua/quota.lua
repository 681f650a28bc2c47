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
  local bytes = redis.call('HINCRBY', counts, 'queued_bytes', n * redis.call('HSTRLEN', job, 'spec') + 0) -- else -0, which is no integer to Redis
  if bytes < 0 then redis.call('HSET', counts, 'queued_bytes', 0) end -- jobs that an earlier build had recorded were not counted
end

-- How an ended job is counted: its ledger, its bytes in Redis, and those of its inputs and outputs in S3. One field: a job has as few as it can.
local function kept_of(job)
  local text = redis.call('HGET', job, 'kept')
  if not text then return end
  local ledger, size, inputs, outputs = string.match(text, '^(%a+) (%d+) (%d+) (%d+)$')
  return {ledger = ledger, size = tonumber(size), inputs = tonumber(inputs), outputs = tonumber(outputs)}
end

local function write_kept(job, kept)
  redis.call('HSET', job, 'kept', string.format('%s %.0f %.0f %.0f', kept.ledger, kept.size, kept.inputs, kept.outputs))
end
