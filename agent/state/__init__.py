"""What a crash may not lose: chunks as bytes. (Memory mode keeps them in process; other modes store them.)"""
