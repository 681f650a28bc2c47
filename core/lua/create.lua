-- Records a job that is being accepted, and counts it as its tenant's and its key's. Returns {verdict, number}:
--   created   it is recorded
--   repeated  the id exists (a retried call: the record is the same)
--   jobs      the tenant has all jobs waiting that it may have: so many
--   bytes     those that wait, so many, take all bytes that they may
--   leaving   so many jobs that have ended are to be deleted and are not yet
-- KEYS: job, tenant index, accepting, deadlines, counts, usage of the key today ('' for none),
--       counts of the tenant, its policy, its jobs that leave
-- ARGV: id, spec, deadline_ms ('' for none), seconds to keep a day of usage, then where the policy has no number: jobs that may wait, bytes of
--       their requests, bytes of jobs that leave; then the schema of the record
if redis.call('EXISTS', KEYS[1]) == 1 then return {'repeated', 0} end
local found = redis.call('HMGET', KEYS[7], 'queued', 'queued_bytes', 'leaving_bytes')
local waiting, waiting_bytes, leaving_bytes = tonumber(found[1] or 0), tonumber(found[2] or 0), tonumber(found[3] or 0)
local most = bound(KEYS[8], 'queued_jobs', ARGV[5])
if exceeds(waiting + 1, most) then return {'jobs', most} end
if exceeds(waiting_bytes + #ARGV[2], bound(KEYS[8], 'queued_bytes', ARGV[6])) then return {'bytes', waiting} end
if exceeds(leaving_bytes, bound(KEYS[8], 'leaving_bytes', ARGV[7])) then return {'leaving', redis.call('ZCARD', KEYS[9])} end
redis.call('HSET', KEYS[1], 'spec', ARGV[2], 'status', 'queued', 'attempts', 0, 'seq', 0, 'step', 0, 'schema', ARGV[8])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
redis.call('ZADD', KEYS[3], clock_ms(), ARGV[1])
if ARGV[3] ~= '' then redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1]) end
redis.call('HINCRBY', KEYS[5], 'queued', 1)
count_waiting(KEYS[7], KEYS[1], 1)
if KEYS[6] ~= '' then
  redis.call('HINCRBY', KEYS[6], 'jobs', 1)
  redis.call('EXPIRE', KEYS[6], ARGV[4])
end
return {'created', 0}
