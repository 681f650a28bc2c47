-- Owes a test event to one endpoint. Returns 1, or 0 if a retried call comes to what is owed already.
-- KEYS: outbox, deliveries of the tenant, webhook row   ARGV: id, lane, the event as JSON, endpoint
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
owe(KEYS[1], KEYS[2], ARGV[2], ARGV[1], ARGV[3], 0, 'endpoint', ARGV[4])
return 1
