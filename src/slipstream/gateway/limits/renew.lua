-- Keeps the leases of requests that still run.
-- KEYS  1 leases of one caller
-- ARGV  1 how long they last from now in seconds; from 2 the leases
local time = redis.call('TIME')
local ends = tonumber(time[1]) + tonumber(time[2]) / 1000000 + tonumber(ARGV[1])
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], 'XX', ends, ARGV[i])
end
redis.call('EXPIRE', KEYS[1], math.ceil(ARGV[1] * 2))
return 0
