"""What has to happen in one piece on the server, in Lua. Each script works on one stream, ``KEYS[1]``."""

from __future__ import annotations

NOBODY = "nobody"
"""The consumer that has what was given back. Nobody reads as it; whoever claims what is idle finds it at once."""
IDLE_MS = 7 * 24 * 3600 * 1000
"""For how long what was given back has been idle, as far as Redis knows."""

# ARGV: how many messages; for each: 1 if it must arrive, the number of its fields and values, these.
# Returns for each the id, or "-" and the error; "-" alone if no group is there to get it.
SEND = """
local outcomes = {}
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
local is_heard = not groups.err and #groups > 0
local at = 2
for number = 1, tonumber(ARGV[1]) do
    local last = at + 1 + tonumber(ARGV[at + 1])
    if ARGV[at] == '1' and not is_heard then
        outcomes[number] = '-'
    else
        local added = redis.pcall('XADD', KEYS[1], '*', unpack(ARGV, at + 2, last))
        outcomes[number] = added.err and '-' .. added.err or added
    end
    at = last + 1
end
return outcomes
"""

# ARGV: group, consumer, idle for so many ms at least, how many at most.
# Returns what is the consumer's from now on: id, how often it was given out, fields and values.
CLAIM = """
local claimed = {}
local start = '0-0'
repeat
    local more = tonumber(ARGV[4]) - #claimed
    local found = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], start, 'COUNT', more)
    for _, entry in ipairs(found[2]) do
        local pending = redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1)
        claimed[#claimed + 1] = {entry[1], pending[1][4], entry[2]}
    end
    start = found[1]
until start == '0-0' or #claimed >= tonumber(ARGV[4])
return claimed
"""

# ARGV: group, whose they have to be, whose they are from now on, idle since so many ms, ids.
HAND_OVER = """
for at = 5, #ARGV do
    if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[at], ARGV[at], 1, ARGV[2]) > 0 then
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[at], 'IDLE', ARGV[4], 'JUSTID')
    end
end
"""

# ARGV: group, whose, whose all of these are from now on, idle since so many ms.
HAND_OVER_ALL = """
repeat
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 500, ARGV[2])
    for _, entry in ipairs(pending) do
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, entry[1], 'IDLE', ARGV[4], 'JUSTID')
    end
until #pending == 0
"""

# ARGV: group, consumer. Deleting one that has something would make that done.
LEAVE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
"""

# ARGV: how many ms to keep what all groups have handled; likewise where no group is; after how many ms without a sign
# of life a consumer is gone; what names of our groups begin with.
# Returns how many entries were dropped.
TEND = """
local function fields(flat)
    local named = {}
    for at = 1, #flat, 2 do named[flat[at]] = flat[at + 1] end
    return named
end
local function before(one, other)
    local ms, number = string.match(one, '(%d+)-(%d+)')
    local other_ms, other_number = string.match(other, '(%d+)-(%d+)')
    if ms ~= other_ms then return tonumber(ms) < tonumber(other_ms) end
    return tonumber(number) < tonumber(other_number)
end
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then return 0 end
local keep = #groups > 0 and ARGV[1] or ARGV[2]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local needed = string.format('%.0f-0', now - tonumber(keep))
for _, flat in ipairs(groups) do
    local group = fields(flat)
    local first = group['last-delivered-id']
    if group['pending'] > 0 then
        first = redis.call('XPENDING', KEYS[1], group['name'])[2]
    end
    if before(first, needed) then needed = first end
    if string.sub(group['name'], 1, #ARGV[4]) == ARGV[4] then
        for _, flat_consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], group['name'])) do
            local consumer = fields(flat_consumer)
            if consumer['pending'] == 0 and consumer['idle'] > tonumber(ARGV[3]) then
                redis.call('XGROUP', 'DELCONSUMER', KEYS[1], group['name'], consumer['name'])
            end
        end
    end
end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', needed)
"""
