#!/bin/sh
body=$(head -c "${CONTENT_LENGTH:-0}")
printf 'Content-Type: text/event-stream\r\n\r\n'
event() { printf 'event: %s\ndata: {"type":"%s",%s}\n\n' "$1" "$1" "$2"; }
event message_start '"message":{"id":"msg_1","type":"message","role":"assistant","model":"scripted","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":12,"output_tokens":1}}'
say() {
  event content_block_start '"index":0,"content_block":{"type":"text","text":""}'
  event content_block_delta "\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"$1\"}"
  event content_block_stop '"index":0'
}
end() { event message_delta "\"delta\":{\"stop_reason\":\"$1\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":20}"; }
case $body in
  *tool_result*) say "It is there."; end end_turn ;;
  *'"name":"Bash"'*)
    say "I write it."
    event content_block_start '"index":1,"content_block":{"type":"tool_use","id":"toolu_1","name":"Bash","input":{}}'
    event content_block_delta '"index":1,"delta":{"type":"input_json_delta","partial_json":"{\"command\":\"echo written by a tool | tee made\",\"description\":\"Write\"}"}'
    event content_block_stop '"index":1'
    end tool_use ;;
  *) say "A title"; end end_turn ;;
esac
event message_stop '"x":0'
