-- Records anew a job that had ended, from its archive, as it ended; nothing is told again. Returns 1, or 0 if there is a record.
-- KEYS: job, tenant index, expiry, counts, counts of the tenant, its policy, inputs and outputs by when they are to be deleted, events
-- ARGV: id, tenant, status, when it ended (ms), how long to keep the record, the inputs and the outputs (ms; '' for the last two: as long as the record),
--       the ledger that it is kept in, its bounds (jobs, bytes) and that of stored bytes where the policy has none, bytes of its inputs, and of its
--       outputs; field, value, ...
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
for i = 14, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('ZADD', KEYS[2], 0, ARGV[1])
redis.call('HINCRBY', KEYS[4], ARGV[3], 1)
local policy = redis.call('HMGET', KEYS[6], 'records_s', 'inputs_s', 'outputs_s')
local keep_ms = policy[1] and policy[1] * 1000 or tonumber(ARGV[5])
redis.call('ZADD', KEYS[3], ARGV[4] + keep_ms, ARGV[1])
for i = 2, 3 do -- what is to go before the record
  local part_ms = policy[i] and policy[i] * 1000 or tonumber(ARGV[4 + i])
  if part_ms and part_ms < keep_ms then redis.call('ZADD', KEYS[5 + i], ARGV[4] + part_ms, ARGV[1]) end
end
keep(KEYS[3], KEYS[6], KEYS[5], ARGV[2], ARGV[1], KEYS[1], KEYS[9], ARGV[8], {unpack(ARGV, 9, 11)}, ARGV[12], ARGV[13])
return 1
