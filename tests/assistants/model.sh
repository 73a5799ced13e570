#!/bin/sh
# A model for the programs of three providers: it has a tool write a file, says that it is there once the
# tool's result is in the conversation. It answers nobody without the key, nor while a command line shows that.
body=$(head -c "${CONTENT_LENGTH:-0}")
refuse() {
  printf 'HTTP/1.0 %s\r\nContent-Type: application/json\r\n\r\n{"error":{"message":"%s"}}' "$1" "$2"
  exit
}
case "$HTTP_X_API_KEY $HTTP_AUTHORIZATION $HTTP_X_GOOG_API_KEY" in
  *sk-scripted-0123456789*) ;;
  *) refuse '401 Unauthorized' 'the key is missing' ;;
esac
shown=$(grep -ls 'sk-scripte[d]-0123456789' /proc/[0-9]*/cmdline) && refuse '403 Forbidden' "the key is in $shown"

command='echo written by a tool | tee made'
event() { printf 'event: %s\ndata: {"type":"%s",%s}\n\n' "$1" "$1" "$2"; }

anthropic_say() {
  event content_block_start '"index":0,"content_block":{"type":"text","text":""}'
  event content_block_delta "\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"$1\"}"
  event content_block_stop '"index":0'
}
anthropic_end() {
  event message_delta "\"delta\":{\"stop_reason\":\"$1\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":20}"
  event message_stop '"x":0'
}
anthropic() {
  event message_start '"message":{"id":"msg_1","type":"message","role":"assistant","model":"scripted","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":12,"output_tokens":1}}'
  case $body in
    *tool_result*) anthropic_say "It is there."; anthropic_end end_turn ;;
    *'"name":"Bash"'*)
      anthropic_say "I write it."
      event content_block_start '"index":1,"content_block":{"type":"tool_use","id":"toolu_1","name":"Bash","input":{}}'
      event content_block_delta "\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"command\\\":\\\"$command\\\",\\\"description\\\":\\\"Write\\\"}\"}"
      event content_block_stop '"index":1'
      anthropic_end tool_use ;;
    *) anthropic_say "A title"; anthropic_end end_turn ;;
  esac
}

openai_item() { event response.output_item.done "\"output_index\":$1,\"item\":$2"; }
openai_say() {
  openai_item 0 "{\"type\":\"message\",\"id\":\"msg_1\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"$1\"}]}"
}
openai() {
  event response.created '"response":{"id":"resp_1"}'
  case $body in
    *'"function_call_output"'*) openai_say "It is there." ;;
    *)
      openai_say "I write it."
      openai_item 1 "{\"type\":\"function_call\",\"id\":\"fc_1\",\"call_id\":\"call_1\",\"name\":\"exec_command\",\"arguments\":\"{\\\"cmd\\\":\\\"$command\\\"}\"}" ;;
  esac
  event response.completed '"response":{"id":"resp_1","usage":{"input_tokens":12,"input_tokens_details":null,"output_tokens":20,"output_tokens_details":null,"total_tokens":32}}'
}

google_say() {
  printf 'data: {"candidates":[{"content":{"role":"model","parts":[%s]},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":12,"candidatesTokenCount":20,"totalTokenCount":32}}\n\n' "$1"
}
google() {
  case $body in
    *'"functionResponse":'*) google_say '{"text":"It is there."}' ;;
    *) google_say "{\"text\":\"I write it.\"},{\"functionCall\":{\"name\":\"run_shell_command\",\"args\":{\"command\":\"$command\",\"description\":\"Write\"}}}" ;;
  esac
}

case $PATH_INFO in
  */messages) provider=anthropic ;;
  */responses) provider=openai ;;
  *:streamGenerateContent) provider=google ;;
  *) refuse '404 Not Found' "there is no $PATH_INFO" ;;
esac
printf 'Content-Type: text/event-stream\r\n\r\n'
"$provider"
