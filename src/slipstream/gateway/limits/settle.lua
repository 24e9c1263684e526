-- Gives back what a request that has ended did not use, where it was counted and if that counts still.
-- KEYS  as in reserve.lua
-- ARGV  1 second and 2 day in which it was counted; 3 tokens to give back; 4 requests to give back; 5 its lease
local function give_back(key, field, amount)
  local held = tonumber(redis.call('HGET', key, field))
  if amount == 0 or not held then return end
  if held == amount then
    redis.call('HDEL', key, field)
  else
    redis.call('HINCRBY', key, field, -amount)
  end
end

give_back(KEYS[1], ARGV[1], tonumber(ARGV[4]))
give_back(KEYS[2], ARGV[1], tonumber(ARGV[3]))
give_back(KEYS[3], ARGV[2], tonumber(ARGV[3]))
redis.call('ZREM', KEYS[4], ARGV[5])
return 0
